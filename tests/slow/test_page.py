"""The web page in a headless Chromium, as its user has it.

Needs Debian's chromium and chromium-driver. Screenshots at the width of a desktop and of a phone go
to runs/page/.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest
from PIL import Image

from captioning.files import ROOT

SHOTS = ROOT / 'runs' / 'page'
PHOTOS = ROOT / 'images' / 'photos'
ASTRONAUT, CAT = PHOTOS / 'astronaut.jpg', PHOTOS / 'cat.jpg'

pytestmark = pytest.mark.skipif(not (shutil.which('chromium') and shutil.which('chromedriver')),
                                reason='needs chromium and chromium-driver')


@pytest.fixture(scope='module')
def address():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'scripts.serve', '--port', str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
    address = f'http://127.0.0.1:{port}'
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).read()
            break
        except OSError:
            assert server.poll() is None, server.stdout.read()
            time.sleep(0.5)
    yield address
    server.terminate()
    server.wait()


@pytest.fixture
def browser():
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    for flag in ('headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'window-size=1200,1100'):
        options.add_argument('--' + flag)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    service = webdriver.ChromeService(shutil.which('chromedriver'))
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


def wait(check, seconds=30):
    """What `check()` returns, once that is true."""
    end = time.monotonic() + seconds
    while True:
        try:
            if result := check():
                return result
        except Exception as error:    # the page is being drawn
            last = error
        else:
            last = 'nothing'
        assert time.monotonic() < end, f'waited {seconds} s for {check}: {last}'
        time.sleep(0.1)


def element(browser, selector):
    return wait(lambda: browser.find_element('css selector', selector))


def upload(browser, path):
    clear = 'button[aria-label="Clear"], button[title="Clear"]'
    for button in browser.find_elements('css selector', clear):
        button.click()
    element(browser, 'input[type=file]').send_keys(str(path))
    preview = '.image-container img, [data-testid="image"] img'
    wait(lambda: browser.find_element('css selector', preview))
    time.sleep(1)    # until the server has it


def caption(browser):
    return browser.find_element('css selector', '#caption textarea').get_attribute('value')


def press(browser):
    buttons = browser.find_elements('tag name', 'button')
    next(button for button in buttons if button.text == 'Generate caption').click()


def time_shown(browser):
    return browser.find_elements('css selector', 'textarea')[-1].get_attribute('value')


def hosts_asked(browser):
    """Hosts and ports of all requests that the browser has sent."""
    hosts = set()
    for entry in browser.get_log('performance'):
        message = json.loads(entry['message'])['message']
        if message['method'] == 'Network.requestWillBeSent':
            url = urllib.parse.urlsplit(message['params']['request']['url'])
            if url.scheme.startswith('http'):
                hosts.add(url.netloc)
    return hosts


def test_a_photo_is_captioned_by_either_method_and_a_text_is_refused(address, browser, tmp_path):
    browser.get(address)
    upload(browser, ASTRONAUT)
    press(browser)
    first = wait(lambda: caption(browser))
    assert len(first.split()) > 3
    wait(lambda: 'second' in time_shown(browser))
    wait(lambda: len(browser.find_elements('css selector', '#others tbody tr')) >= 5)
    time.sleep(2)
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SHOTS / 'desktop.png'))

    browser.get(address)
    upload(browser, CAT)    # of which the two methods say different things
    press(browser)
    first = wait(lambda: caption(browser))
    assert 'cat' in first.split()
    recognized = wait(lambda: browser.find_element('css selector', '#recognized tbody tr').text)
    assert 'cat' in recognized and '%' in recognized and 'not said' not in recognized
    browser.save_screenshot(str(SHOTS / 'cat.png'))
    browser.find_element('css selector', 'input[type=radio][value=greedy]').click()
    press(browser)
    wait(lambda: caption(browser) not in ('', first))

    fake = tmp_path / 'fake.jpg'
    fake.write_text('this is no photo')
    browser.get(address)
    element(browser, 'input[type=file]').send_keys(str(fake))
    time.sleep(2)
    press(browser)
    body = browser.find_element('tag name', 'body')
    wait(lambda: 'not a photo that can be read' in body.text)
    browser.save_screenshot(str(SHOTS / 'refused.png'))

    page_host = address.removeprefix('http://')
    assert hosts_asked(browser) == {page_host}, 'the page asked another host'


def test_it_fits_a_phone_and_obeys_the_keyboard(address, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    phone = {'width': 390, 'height': 844, 'deviceScaleFactor': 2, 'mobile': True}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', phone)
    browser.get(address)
    upload(browser, ASTRONAUT)
    for _ in range(40):    # with the tab key alone
        ActionChains(browser).send_keys(Keys.TAB).perform()
        if browser.switch_to.active_element.text == 'Generate caption':
            break
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    wait(lambda: caption(browser))
    assert browser.execute_script('return document.documentElement.scrollWidth') <= 390
    time.sleep(2)
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SHOTS / 'phone.png'))
    undescribed = browser.execute_script(
        'return [...document.images].filter(image => image.width > 40 && !image.alt).length')
    assert undescribed == 0, 'pictures without a text for screen readers'


def test_the_api_captions_and_refuses(address, tmp_path):
    from gradio_client import Client, handle_file
    client = Client(address, verbose=False)
    text, others, looked, seconds, recognized = client.predict(
        handle_file(str(CAT)), 'greedy', api_name='/caption')
    assert len(text.split()) > 3 and others.count('1 in') == 5 and 'second' in seconds
    assert '| cat | ' in recognized and recognized.count('% | said |') == 1
    drawn = looked if isinstance(looked, str) else looked['path']
    assert Image.open(drawn).width > 100
    bomb = tmp_path / 'large.png'
    Image.new('1', (9000, 9000)).save(bomb)
    for photo, told in ((bomb, '81 megapixels'), (__file__, 'not a photo')):
        with pytest.raises(Exception, match=told):
            client.predict(handle_file(str(photo)), 'greedy', api_name='/caption')
