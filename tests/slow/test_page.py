"""The web page in a headless Chromium, as its user has it, and requests that no browser sends.

The browser is Debian's chromium, with chromium-driver. Screenshots at the width of a desktop and of
a phone go to runs/page/.
"""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import httpx
import pytest
from PIL import Image

from captioning.files import ROOT

SHOTS = ROOT / 'runs' / 'page'
PHOTOS = ROOT / 'images' / 'photos'
ASTRONAUT, CAT = PHOTOS / 'astronaut.jpg', PHOTOS / 'cat.jpg'

def start(**environment):
    """Start the page on a free port -> (its address, the process)."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'scripts.serve', '--port', str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env={**os.environ, **environment})
    address = f'http://127.0.0.1:{port}'
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).read()
            break
        except OSError:
            assert server.poll() is None, server.stdout.read()
            time.sleep(0.5)
    return address, server


@pytest.fixture(scope='module')
def address():
    address, server = start()
    yield address
    server.terminate()
    server.wait()


@pytest.fixture
def browser():
    if not (shutil.which('chromium') and shutil.which('chromedriver')):
        pytest.skip('needs chromium and chromium-driver')
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
    upload(browser, ASTRONAUT)    # of whom the two methods say different things
    press(browser)
    first = wait(lambda: caption(browser))
    assert len(first.split()) > 3
    wait(lambda: 'second' in time_shown(browser))
    wait(lambda: len(browser.find_elements('css selector', '#others tbody tr')) >= 5)
    time.sleep(2)
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(SHOTS / 'desktop.png'))
    browser.find_element('css selector', 'input[type=radio][value=greedy]').click()
    press(browser)
    wait(lambda: caption(browser) not in ('', first))

    browser.get(address)
    upload(browser, CAT)
    press(browser)
    assert 'cat' in wait(lambda: caption(browser)).split()
    recognized = wait(lambda: browser.find_element('css selector', '#recognized tbody tr').text)
    assert 'cat' in recognized and '%' in recognized and 'not said' not in recognized
    browser.save_screenshot(str(SHOTS / 'cat.png'))

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


# ---- Requests that no browser sends ----

@pytest.fixture
def other_host():
    """A web server on this machine -> (its address, the list of paths that it was asked for)."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', asked
    server.shutdown()


def error_of(address, *data):
    """The message of a request that is refused."""
    api = f'{address}/gradio_api/call/caption'
    event = httpx.post(api, json={'data': data}, trust_env=False).json()['event_id']
    answer = httpx.get(f'{api}/{event}', timeout=60, trust_env=False).text
    assert 'event: error' in answer, answer
    return json.loads(answer.split('data: ')[1])['error']


def test_only_uploads_are_opened_and_nothing_is_fetched(address, other_host):
    host, asked = other_host
    mark = {'meta': {'_type': 'gradio.FileData'}}
    url = {'path': f'{host}/cat.jpg', **mark}
    for path in (url['path'], url['path'].upper(), 'http://photos.invalid/cat.jpg', '/etc/passwd',
                 'file:///etc/passwd', 'README.md', '../cat.jpg', 'a\0b', 'a' * 5000):
        for marked in ({}, mark):
            told = error_of(address, {'path': path, **marked}, 'greedy')
            assert told == 'This file was not uploaded here.', path
    nested = {'path': None, 'url': [url], **mark}
    for data in ([[url], 'greedy'], [nested, 'greedy'], [None, url]):
        assert error_of(address, *data) == 'This file was not uploaded here.'
    assert error_of(address, {'url': url['path'], **mark}, 'greedy') == 'Choose a photo first.'
    assert asked == []


def test_no_message_tells_what_only_the_server_knows(address):
    for data in ([], ['cat.jpg', 'greedy'], [5, 'greedy'], [{'path': 5}, 'greedy'], [None, {}],
                 [{'path': 'cat.jpg', 'meta': {'_type': 'gradio.FileData'}}, 'greedy']):
        told = error_of(address, *data) or ''
        for secret in (str(ROOT), 'gradio', 'object at', 'pydantic'):
            assert secret not in told


@pytest.mark.skipif(os.name == 'nt', reason='Windows sends no SIGINT to another process')
@pytest.mark.parametrize('kind', [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_page_leaves_no_uploads(tmp_path, kind):
    address, server = start(GRADIO_TEMP_DIR=str(tmp_path))
    httpx.post(f'{address}/gradio_api/upload', trust_env=False,
               files={'files': ('cat.jpg', CAT.read_bytes())}).raise_for_status()
    assert list(tmp_path.rglob('cat.jpg'))
    server.send_signal(kind)
    server.wait(30)
    assert not list(tmp_path.rglob('cat.jpg'))
