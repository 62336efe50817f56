"""The web page in a headless Chromium, as its user has it: needs Debian's chromium and chromium-driver.

Screenshots at the width of a desktop and of a phone go to runs/page/.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
SHOTS = ROOT / 'runs' / 'page'
ASTRONAUT, CAT = (ROOT / 'images' / 'photos' / name for name in ('astronaut.jpg', 'cat.jpg'))

pytestmark = pytest.mark.skipif(not (shutil.which('chromium') and shutil.which('chromedriver')),
                                reason='needs chromium and chromium-driver')


@pytest.fixture(scope='module')
def address():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, '-m', 'scripts.serve', '--port', str(port)], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which('chromedriver')))
    yield browser
    browser.quit()


def wait(check, seconds=30):
    """What `check()` returns, once that is true."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := check():
                return found
        except Exception as error:    # the page is being drawn
            last = error
        else:
            last = 'nothing'
        assert time.monotonic() < end, f'waited {seconds} s for {check}: {last}'
        time.sleep(0.1)


def element(browser, selector):
    return wait(lambda: browser.find_element('css selector', selector))


def upload(browser, path):
    for old in browser.find_elements('css selector', 'button[aria-label="Clear"], button[title="Clear"]'):
        old.click()
    element(browser, 'input[type=file]').send_keys(str(path))
    wait(lambda: browser.find_element('css selector', '.image-container img, [data-testid="image"] img'))
    time.sleep(1)    # until the server has it


def caption(browser):
    return browser.find_element('css selector', '#caption textarea').get_attribute('value')


def press(browser):
    button = next(b for b in browser.find_elements('tag name', 'button') if b.text == 'Generate caption')
    button.click()


def test_a_photo_is_captioned_with_beam_and_greedy_and_a_text_is_refused(address, browser, tmp_path):
    browser.get(address)
    upload(browser, ASTRONAUT)
    press(browser)
    first = wait(lambda: caption(browser))
    assert len(first.split()) > 3
    wait(lambda: 'second' in browser.find_elements('css selector', 'textarea')[-1].get_attribute('value'))
    wait(lambda: len(browser.find_elements('css selector', '#others tbody tr')) >= 5)
    time.sleep(2)
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SHOTS / 'desktop.png'))

    browser.get(address)
    upload(browser, CAT)    # of which the two methods say different things
    press(browser)
    first = wait(lambda: caption(browser))
    browser.find_element('css selector', 'input[type=radio][value=greedy]').click()
    press(browser)
    wait(lambda: caption(browser) not in ('', first))

    fake = tmp_path / 'fake.jpg'
    fake.write_text('this is no photo')
    browser.get(address)
    element(browser, 'input[type=file]').send_keys(str(fake))
    time.sleep(2)
    press(browser)
    wait(lambda: 'not a photo that can be read' in browser.find_element('tag name', 'body').text)
    browser.save_screenshot(str(SHOTS / 'refused.png'))

    hosts = {json.loads(entry['message'])['message']['params']['request']['url'].split('/')[2]
             for entry in browser.get_log('performance')
             if json.loads(entry['message'])['message']['method'] == 'Network.requestWillBeSent'
             and json.loads(entry['message'])['message']['params']['request']['url'].startswith('http')}
    assert hosts == {address.removeprefix('http://')}, 'the page asked another host'


def test_it_fits_a_phone_and_obeys_the_keyboard(address, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride',
                            {'width': 390, 'height': 844, 'deviceScaleFactor': 2, 'mobile': True})
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
    pictures = browser.execute_script("return [...document.images].filter(i => i.width > 40 && !i.alt).length")
    assert pictures == 0, 'pictures without a text for screen readers'


def test_the_api_captions_and_refuses(address, tmp_path):
    from gradio_client import Client, handle_file
    client = Client(address, verbose=False)
    text, others, looked, seconds = client.predict(handle_file(str(ASTRONAUT)), 'greedy', api_name='/caption')
    assert len(text.split()) > 3 and others.count('1 in') == 5 and 'second' in seconds
    assert Image.open(looked if isinstance(looked, str) else looked['path']).size[0] > 100
    bomb = tmp_path / 'large.png'
    Image.new('1', (9000, 9000)).save(bomb)
    for photo, told in ((bomb, '81 megapixels'), (__file__, 'not a photo')):
        with pytest.raises(Exception, match=told):
            client.predict(handle_file(str(photo)), 'greedy', api_name='/caption')
